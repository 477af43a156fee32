import pytest

from regfast.registry import Registry, load, parse


class Shape:
    def __init__(self, size: float = 1.0, sides: int = 4):
        self.size, self.sides = size, sides


class Solid(Shape):
    pass


class Bare:
    pass


class Free(Shape):
    def __init__(self, **anything: float):
        self.anything = anything


@pytest.fixture
def shapes() -> Registry[Shape]:
    registry = Registry("shape", Shape)
    registry.register("solid")(Solid)
    registry.register("free")(Free)
    return registry


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("pgd", "pgd", {}),
        ("pgd:eps=8/255,steps=7", "pgd", {"eps": 8 / 255, "steps": 7}),
        ("pgd: eps = 0.5 , loss=dlr,", "pgd", {"eps": 0.5, "loss": "dlr"}),
        ("mine.file:Attack", "mine.file:Attack", {}),
        ("mine:Attack:flag=True,none=None,other=false", "mine:Attack", {"flag": True, "none": None, "other": False}),
        ("distillation:checkpoint=C:/teacher.pt", "distillation", {"checkpoint": "C:/teacher.pt"}),
        ("a:path=1/0", "a", {"path": "1/0"}),
        ("a:minus=-1e-3", "a", {"minus": -1e-3}),
    ],
)
def test_grammar(spec, name, options):
    assert parse(spec) == (name, options)


@pytest.mark.parametrize("spec", ["a:b=1,c", "a:=3", "a:b=1,b=2"])
def test_grammar_refuses(spec):
    with pytest.raises(ValueError, match=r"NAME=VALUE|twice"):
        parse(spec)


@pytest.mark.parametrize("name", [None, 3, b"digits", ["digits"]])
def test_a_name_is_text(name):
    with pytest.raises(TypeError, match="a name must be text"):
        parse(name)


def test_build(shapes):
    assert vars(shapes.build("solid:sides=6", size=2)) == {"size": 2, "sides": 6}
    assert shapes.build("solid:size=3", size=2).size == 3
    assert shapes.build("free:a=1,b=2").anything == {"a": 1, "b": 2}
    assert shapes.names() == ["free", "solid"]
    assert shapes.name_of(Solid) == "solid"
    assert shapes.name_of(Shape) == f"{__name__}:Shape"


def test_a_users_own(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_shapes.py").write_text(
        "from fractions import Fraction\nclass Outer:\n    class Inner:\n        pass\n"
    )
    assert load("own_shapes:Outer.Inner", "shape").__name__ == "Inner"
    with pytest.raises(ValueError, match="derived from Shape"):
        shapes.build("own_shapes:Outer")
    with pytest.raises(ValueError, match="own_shapes:Missing"):
        shapes.build("own_shapes:Missing")
    with pytest.raises(ValueError, match="nowhere"):
        shapes.build("nowhere_at_all:X")


def test_what_is_refused(shapes):
    with pytest.raises(ValueError, match="no shape is called 'cube'; there are free, solid"):
        shapes.build("cube")
    with pytest.raises(ValueError, match=r"no shape is called 'sold' \(did you mean solid\?\); there are"):
        shapes.build("sold")
    with pytest.raises(ValueError, match="solid takes no color; it takes size, sides"):
        shapes.build("solid:color=3")
    bare = Registry("thing", Bare)
    bare.register("bare")(Bare)
    with pytest.raises(ValueError, match="takes no size; it takes no options"):
        bare.build("bare:size=1")
    with pytest.raises(ValueError, match="already"):
        shapes.register("solid")(Free)
    with pytest.raises(ValueError, match="none of"):
        shapes.register("a:b")
