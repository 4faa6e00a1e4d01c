"""Faults are put into every algorithm, and the conformance suite has to notice each of them.

First mechanically: each sign, product, dropped statement and dropped state of an algorithm's file.
Then by hand those that were found in public code (docs/algorithms.md), and some in what all share.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types

import pytest
import torch

from helpers import toy_problems as toy
from helpers.conformance import SOME, check
from mmfl.params import BASES
from mmfl.strategies import aggregation, base
from mmfl.strategies import strategy as algorithm
from mmfl.strategies.base import Group, Strategy, TensorInfo
from mmfl.strategies.fednova import NORM
from mmfl.strategies.modules import mim, prototypes

SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
ELSEWHERE = {  # evaluation, bytes, extra pass: tests/federation; parts on their own: test_parts.py
    "evaluation_view", "tested", "statistics_bytes", "steps", "walked", "average", "_add",
    "extra", "projected", "turned",  # cells: test_cells.py
}  # fmt: skip
STRATEGIES = {name: algorithm(name) for name in BASES if name != "prototypes"}
OWN = [name for name in STRATEGIES if name not in ("prior", "mf")]


class Mutator(ast.NodeTransformer):
    """Applies the n-th possible change and stops; `done` says what it was."""

    def __init__(self, number):
        self.left = number
        self.done = ""

    def _hit(self, what, node):
        self.left -= 1
        if self.left == -1:
            self.done = f"line {node.lineno}: {what}"
        return self.left == -1

    def visit_FunctionDef(self, node):
        return node if node.name in ELSEWHERE else self.generic_visit(node)

    def visit_BinOp(self, node):
        self.generic_visit(node)
        other = SWAPS.get(type(node.op))
        if other and self._hit(f"{type(node.op).__name__} to {other.__name__}", node):
            return ast.copy_location(ast.BinOp(node.left, other(), node.right), node)
        return node

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.USub) and self._hit("minus dropped", node):
            return node.operand
        return node

    def visit_Assign(self, node):
        self.generic_visit(node)
        stored = isinstance(node.targets[0], ast.Subscript)
        return ast.copy_location(ast.Pass(), node) if stored and self._drop(node) else node

    def visit_Expr(self, node):
        self.generic_visit(node)
        called = isinstance(node.value, ast.Call)
        return ast.copy_location(ast.Pass(), node) if called and self._drop(node) else node

    def _drop(self, node):
        return self._hit("statement dropped", node)

    def visit_Return(self, node):
        self.generic_visit(node)
        value = node.value
        pair = isinstance(value, ast.Tuple) and len(value.elts) == 2
        kept = pair and isinstance(value.elts[1], ast.Dict | ast.Name)
        if kept and getattr(value.elts[1], "keys", True) and self._hit("state not kept", node):
            empty = ast.copy_location(ast.Dict([], []), value)
            last = ast.Tuple([value.elts[0], empty], ast.Load())
            return ast.copy_location(ast.Return(ast.copy_location(last, value)), node)
        return node


def mutants(module):
    """(what was changed, changed module) for every possible change of a module's file."""
    source = inspect.getsource(module)
    number = 0
    while True:
        mutator = Mutator(number)
        tree = ast.fix_missing_locations(mutator.visit(ast.parse(source)))
        if not mutator.done:
            return
        changed = types.ModuleType(f"{module.__name__}_mutant")
        sys.modules[changed.__name__] = changed  # dataclasses and pickles look for it
        exec(compile(tree, module.__file__, "exec"), changed.__dict__)
        yield mutator.done, changed
        number += 1


def notices(name, work, strategy):
    """Whether the closed forms refuse a strategy."""
    try:
        check(name, work / "plain", SOME, strategy=strategy)
        if name == "fednova":
            check(name, work / "momentum", SOME, strategy=strategy, momentum=0.7)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("name", OWN)
def test_every_mechanical_fault_is_noticed(name, tmp_path):
    assert not notices(name, tmp_path / "intact", STRATEGIES[name])
    survived, count = [], 0
    for what, changed in mutants(sys.modules[STRATEGIES[name].__module__]):
        count += 1
        faulty = getattr(changed, STRATEGIES[name].__name__)
        if not notices(name, tmp_path / str(count), faulty):
            survived.append(what)
    assert not survived
    assert count or name in ("local", "late-fusion", "fedbn", "centralised-steps",
                             "centralised-epochs")  # fmt: skip


@pytest.mark.parametrize(
    ("method", "module", "name"), [("mf+mim", mim, "Mim"), ("prototypes", prototypes, "Prototypes")]
)
def test_every_mechanical_fault_of_a_module_is_noticed(method, module, name, tmp_path, monkeypatch):
    survived, count = [], 0
    for what, changed in mutants(module):
        count += 1
        monkeypatch.setattr(module, name, getattr(changed, name))
        if not notices(method, tmp_path / str(count), None):
            survived.append(what)
    assert not survived and count > 5


# ---- by hand: what was found wrong in public code ----------------------------------------------


def subclass(name, **members):
    return type("Faulty", (STRATEGIES[name],), members)


def shared_norms(self):
    return Strategy.groups(self)


def at_weights(self, initial):
    server = STRATEGIES["scaffold"].start(self, initial)
    server.state["scaffold.c"] = {a: w + 0.1 for a, w in server.parameters.items()}
    return server


def unweighted(self, updates, slot):
    return aggregation.sums(
        {a: x / self.count(a) for a, x in u.extras[slot].items()} for u in updates
    )


def among_participants(self, updates, slot):
    return aggregation.weighted_sums(
        [u.extras[slot] for u in updates], [self.nu(u.size) for u in updates]
    )


def no_quadratic(self, context):
    context.add_to_gradient(context.memory["linear"], -1.0)


def no_gradient_drift(self, context):
    context.add_to_gradient(context.memory["drift"], context.memory["alpha"])
    context.add_to_gradient(context.drift(), context.memory["alpha"])


def bias_corrected(self, server, updates):
    moved = STRATEGIES["fedadam"].aggregate(self, server, updates)
    return {a: x / (1 - self.hyper.beta1 ** (server.round)) for a, x in moved.items()}


def norms_by_name(self):
    own = Group("norms", lambda t: "bn" in t.name or "norm" in t.name, lambda t, c: c.id)
    return (own, *Strategy.groups(self))


def as_many_steps_for_all(self, epoch):
    return 5


def squared_weights(self, size):
    return float(size) ** 2


FAULTS = {
    "fedbn: norm layers found by name": ("fedbn", {"groups": norms_by_name}),
    "moon: another budget of steps": ("moon", {"steps": as_many_steps_for_all}),
    "fedprox: another budget of steps": ("fedprox", {"steps": as_many_steps_for_all}),
    "mf: weights n_i squared": ("mf", {"nu": squared_weights}),
    "fedbn: norm layers shared": ("fedbn", {"groups": shared_norms}),
    "scaffold: variates initialised to the weights": ("scaffold", {"start": at_weights}),
    "scaffold: uniform weights": ("scaffold", {"population_sum": unweighted}),
    "scaffold: weights of the participants": ("scaffold", {"population_sum": among_participants}),
    "feddyn: without the quadratic": ("feddyn", {"edit_gradient": no_quadratic}),
    "feddc: without the gradient drift": ("feddc", {"edit_gradient": no_gradient_drift}),
    "fedadam: bias corrected": ("fedadam", {"aggregate": bias_corrected}),
    "mf: uniform weights": ("mf", {"nu": lambda self, size: 1.0}),
    "mf: everything shared by all": (
        "mf", {"address": lambda self, info, client: ("all", info.name)},
    ),
    "late-fusion: classifier shared": ("late-fusion", {"groups": Strategy.groups}),
    "local: averaged": ("local", {"groups": Strategy.groups}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_public_code_are_noticed(fault, tmp_path):
    name, members = FAULTS[fault]
    assert notices(name, tmp_path, subclass(name, **members))


def test_faults_in_what_all_share_are_noticed(tmp_path, monkeypatch):
    def late_count_too(clients, participation, seed, round_index):
        return dict.fromkeys((c.id for c in clients), "trained")

    for number, (owner, name, value) in enumerate(
        (
            (aggregation, "add", lambda value, delta: value - delta),
            (base.Context, "drift", lambda self: {a: 0 * w for a, w in self.start.items()}),
            (base.Context, "own", lambda self, s: {a: 0 * w for a, w in self.start.items()}),
            (base.Strategy, "share", lambda self, a, c: 1 / self.count(a)),
            (base.Strategy, "count", lambda self, a: 1),
        )
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, value)
            assert notices("feddyn", tmp_path / str(number), STRATEGIES["feddyn"]), name
    import mmfl.federation.loop as loop

    with monkeypatch.context() as patched:
        patched.setattr(loop, "attendance", late_count_too)
        assert notices("mf", tmp_path / "late", STRATEGIES["mf"])


def test_training_in_place_of_what_the_server_holds_is_noticed(tmp_path, monkeypatch):
    """The next client would start from the last one's weights."""
    import mmfl.federation.local_update as local

    def aliased(network, strategy, broadcast, client):
        named = dict(network.named_parameters(remove_duplicate=False))
        for info in strategy.own(client):
            named[info.key].data = broadcast.parameters[strategy.address(info, client)]

    assert not notices("mf", tmp_path / "intact", STRATEGIES["mf"])
    monkeypatch.setattr(local, "load", aliased)
    assert notices("mf", tmp_path / "aliased", STRATEGIES["mf"])


def test_fednova_that_divides_by_no_step_is_noticed(tmp_path):
    def aggregate(self, server, updates):
        nu, norms = [self.nu(u.size) for u in updates], [u.extras["fednova"][NORM] for u in updates]
        pairs = list(zip(updates, norms, strict=True))
        unit = [{a: d / n for a, d in u.delta.items()} for u, n in pairs]
        tau = aggregation.weighted_sums([dict.fromkeys(u.delta, n) for u, n in pairs], nu)
        return {a: tau[a] * d for a, d in aggregation.weighted_sums(unit, nu).items()}

    faulty = subclass("fednova", aggregate=aggregate)
    assert not notices("fednova", tmp_path / "all", faulty)  # the same, while everybody takes steps
    for number, (strategy, finite) in enumerate(((STRATEGIES["fednova"], True), (faulty, False))):
        server, _ = toy.run(
            "fednova", toy.Quadratic(), toy.clients(), toy.settings(), tmp_path / str(number),
            strategy, steps=toy.STEPS | {"a-s1": 0},
        )  # fmt: skip
        assert all(torch.isfinite(w).all() for w in server.parameters.values()) == finite


def corrects_parameters_only(strategy, initial):
    """Whether the state of an algorithm is that of parameters; buffers are nobody's drift."""
    server = strategy.start(initial)
    found = [set(server.state[slot]) == set(server.parameters) for slot in strategy.server_state]
    for client in strategy.clients:
        sent = strategy.broadcast(server, client)
        found += [set(sent.extras[slot]) == set(sent.parameters) for slot in strategy.downlink]
    return all(found)


@pytest.mark.parametrize("name", ["scaffold", "feddc", "feddyn", "fedavgm", "fedadam"])
def test_a_correction_of_running_statistics_is_noticed(name):
    statistic = TensorInfo("norm.mean", "norm.mean", "s1", "statistic", True, False)
    network = toy.Quadratic()
    infos = [*network.infos(), statistic]
    initial = {k: v.detach() for k, v in network.state_dict().items()}
    initial["norm.mean"] = torch.zeros(2, dtype=torch.float64)

    def start(self, initial):
        server = STRATEGIES[name].start(self, initial)
        for slot in self.server_state:
            server.state[slot]["s1", "norm.mean"] = torch.zeros(2, dtype=torch.float64)
        return server

    hyper = getattr(toy.settings().algorithms, name)
    for strategy, right in ((STRATEGIES[name], True), (subclass(name, start=start), False)):
        built = strategy(infos, toy.clients(), hyper)
        assert corrects_parameters_only(built, initial) == right


def test_toy_objectives_are_the_same_in_torch_and_numpy():
    for network in (toy.Quadratic(), toy.Linear()):
        for client in toy.clients(overlap=True):
            value = network.objective(client, client.locations)[0].item()
            w = {k: v.numpy() for k, v in network.state_dict().items()}
            assert abs(value - network.loss(client, w)) < 1e-12
