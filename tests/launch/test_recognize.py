"""Who started this process."""

import pytest

from umbel.launch.recognize import FIRST_PORT, PORTS, first_node, port, recognize

STEP = {
    "SLURM_JOB_ID": "812",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "gpu[07-08,12],cpu1",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2),2,1",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}


def test_plain_srun() -> None:
    found = dict(STEP)
    said = recognize(found)
    assert said is not None
    assert said.startswith("srun started them (step 812.3 on gpu[07-08,12],cpu1)")
    ranks = {name: found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")}
    assert ranks == {"RANK": "3", "WORLD_SIZE": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu07"}
    assert found["MASTER_PORT"] == str(port(812, 3))


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_NUM_TASKS": None, "SLURM_STEP_ID": None},  # an sbatch script, salloc's shell
        {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "2"},  # an interactive step
        {"SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "2"},  # a batch step
        {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_no_ranks_where_no_step_has_several_tasks(changes: dict[str, str | None]) -> None:
    environment = {name: value for name, value in (STEP | changes).items() if value is not None}
    before = dict(environment)
    assert recognize(environment) is None
    assert environment == before


def test_launchers_that_speak_for_themselves_are_believed() -> None:
    """Also inside of a step, where torchrun is one of its tasks."""
    ranks = {"RANK": "1", "WORLD_SIZE": "8", "MASTER_PORT": "1"}
    torchrun = ranks | {"TORCHELASTIC_RUN_ID": "x"}
    accelerate = torchrun | {"ACCELERATE_MIXED_PRECISION": "no"}
    for environment, words in ((ranks, "RANK and"), (torchrun, "torchrun"), (accelerate, "accelerate launch")):
        found = STEP | environment
        said = recognize(found)
        assert said is not None
        assert said.startswith(words)
        assert found == STEP | environment
    assert recognize({"RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node", "node"), ("a1,b2", "a1"), ("gpu[07-09,12],x", "gpu07"), ("r1n[3,5]-ib,z", "r1n3-ib"), ("n[9]", "n9")],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_jobs_and_steps_at_the_same_time_meet_at_ports_of_their_own() -> None:
    ports = [port(job, step) for job in range(4_000_000, 4_000_300) for step in range(60)]
    assert len(set(ports)) == len(ports)
    assert len({port(job, 0) for job in range(PORTS)}) == PORTS
    assert min(ports) >= FIRST_PORT
    assert max(ports) < FIRST_PORT + PORTS < 32_768  # where systems begin to give ports away
