"""What type checkers must refuse. Never run: an ignore that is not needed is itself an error."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from enum import Enum

from fast_dag import DAG, FSM, Context, FSMReturn, Node

dag = DAG("refused")


@dag.node
def double(number: int, *, times: int = 1) -> int:
    return 2 * number * times


@dag.node(retry=1)
async def later(number: int) -> str:
    return str(number)


def wrong_arguments_of_a_node() -> None:
    double("3")  # type: ignore[arg-type]
    double()  # type: ignore[call-arg]
    double(3, 4)  # type: ignore[call-arg]
    double(3, time=4)  # type: ignore[call-arg]


def wrong_use_of_the_result_of_a_node() -> None:
    text: str = double(3)  # type: ignore[assignment]
    number: int = later(3)  # type: ignore[assignment]
    wrong: Node[[str], int] = double  # type: ignore[assignment]
    print(text, number, wrong)


def wrong_options_of_a_node() -> None:
    dag.node(retries=3)  # type: ignore[call-overload]
    dag.node(retry="3")  # type: ignore[call-overload]
    dag.node(timeout="1s")  # type: ignore[call-overload]
    dag.node(run_in="cloud")  # type: ignore[call-overload]
    dag.node(outputs=1)  # type: ignore[call-overload]
    dag.node(retry_on="OSError")  # type: ignore[call-overload]
    dag.node(3)  # type: ignore[call-overload]
    dag.add_node("double", double, retry_delays=3)  # type: ignore[call-arg]
    dag.node(double, retries=3)  # type: ignore[call-overload]
    dag.node(double, "name")  # type: ignore[call-overload]


def wrong_options_of_a_kind_of_node() -> None:
    dag.node(wait=True)  # type: ignore[call-overload]
    dag.condition(wait=True)  # type: ignore[call-overload]
    dag.select(collect="number")  # type: ignore[call-overload]
    dag.any(collect="number")  # type: ignore[call-overload]
    dag.all(wait=True)  # type: ignore[call-overload]
    dag.node(ttl=60)  # type: ignore[call-overload]
    dag.any(double, ttl=60)  # type: ignore[call-overload]
    dag.cached_node(wait=True)  # type: ignore[call-overload]
    dag.cached_node(collect="number")  # type: ignore[call-overload]
    dag.cached_node(double, wait=True)  # type: ignore[call-overload]
    fsm.state(wait=True)  # type: ignore[call-overload]
    fsm.cached_state(double, collect="number")  # type: ignore[call-overload]
    fsm.add_state("a", double, wait=True)  # type: ignore[call-arg]
    fsm.add_terminal_state("a", double, collect="number")  # type: ignore[call-arg]


def wrong_edges() -> None:
    dag.connect(double, 3)  # type: ignore[arg-type]
    dag.connect("double", "later", output=1)  # type: ignore[arg-type]
    dag.connect("double", "later", input=True)  # type: ignore[arg-type]
    dag.connect(double.func, later)  # type: ignore[arg-type]
    double.branches[1] >> later  # type: ignore[index]


def wrong_options_of_a_run() -> None:
    dag.run(mode="sequentiel")  # type: ignore[arg-type]
    dag.run(max_workers="4")  # type: ignore[arg-type]
    dag.run(timeout="5 s")  # type: ignore[arg-type]
    dag.run(error_strategy="ignore")  # type: ignore[arg-type]
    dag.run(error_handler=lambda name: "stop")  # type: ignore[arg-type, misc]
    dag.run(context={"user": "ada"})  # type: ignore[arg-type]
    dag.run(inputs=[1, 2])  # type: ignore[arg-type]
    dag.run(outputs=1)  # type: ignore[arg-type]
    dag.execute(mode="sequentiel")  # type: ignore[arg-type]
    dag.run_from(3)  # type: ignore[arg-type]
    dag.run_until()  # type: ignore[call-arg]


def wrong_options_of_a_part() -> None:
    dag.run_from("a", mode="sequentiel")  # type: ignore[arg-type]
    dag.run_from("a", run="earlier")  # type: ignore[arg-type]
    dag.run_from("a", [1, 2])  # type: ignore[arg-type]
    dag.run_until("a", max_workers="4")  # type: ignore[arg-type]
    dag.run_until("a", outputs=1)  # type: ignore[arg-type]
    dag.run_between("a", 3)  # type: ignore[arg-type]
    dag.run_between("a", "b", timeout="5 s")  # type: ignore[arg-type]


async def wrong_options_of_an_awaited_part() -> None:
    await dag.run_from_async("a", keep="none")  # type: ignore[arg-type]
    await dag.run_until_async("a", context={})  # type: ignore[arg-type]
    await dag.run_between_async("a", "b", track_memory="yes")  # type: ignore[arg-type]


async def wrong_options_of_an_awaited_run() -> None:
    await dag.run_async(timeout="5 s")  # type: ignore[arg-type]
    await dag.execute_async(outputs=1)  # type: ignore[arg-type]


def wrong_contexts() -> None:
    Context(result={})  # type: ignore[call-arg]
    Context({}, {}, {}, {})  # type: ignore[call-arg]
    Context(metadata=[("user", "ada")])  # type: ignore[arg-type]


fsm = FSM("refused")


@fsm.state
def state(number: int) -> FSMReturn:
    return FSMReturn(3)  # type: ignore[arg-type]


class Names(Enum):
    state = "state"


@fsm.state
def by_member() -> FSMReturn:
    return FSMReturn(Names.state)  # type: ignore[arg-type]


def wrong_uses_of_a_machine() -> None:
    state("3")  # type: ignore[arg-type]
    state()  # type: ignore[call-arg]
    FSM("m", on_max_cycles="ignore")  # type: ignore[arg-type]
    FSM("m", keep_history="10")  # type: ignore[arg-type]
    fsm.state(inital=True)  # type: ignore[call-overload]
    fsm.state(initial="yes")  # type: ignore[call-overload]
    fsm.add_state("a", double, terminl=True)  # type: ignore[call-arg]
    fsm.add_transition(1, "a")  # type: ignore[arg-type]
    fsm.add_transition("a", "b", "n > 3")  # type: ignore[arg-type]
    fsm.run(max_cycles="9")  # type: ignore[arg-type]
    fsm.run(mode="sequentiel")  # type: ignore[arg-type]
    fsm.start(limits=3)  # type: ignore[arg-type]
    fsm.restore(3)  # type: ignore[arg-type]
    fsm.restore({}, mode="sequentiel")  # type: ignore[arg-type]
    fsm.restore({}, max_cycles="9")  # type: ignore[arg-type]
    fsm.restore({}, check_name="no")  # type: ignore[arg-type]
    fsm.restore({}, on_step=lambda machine: None)  # type: ignore[arg-type, misc]
    fsm.start().send("push", on_unknown="drop")  # type: ignore[arg-type]
    fsm.set_error_state("a", 3)  # type: ignore[arg-type]
    fsm.add_state_hook(lambda fsm: 3)  # type: ignore[arg-type, misc]
