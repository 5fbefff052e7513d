"""All scenes, as parameters of a test: ``(stage's class, scene)``."""
import pytest
from group_scenes import GROUPS, LAYERS
from message_scenes import MESSAGES
from stages import GroupStage, LayerStage, MessageStage

SCENES = (
    [(MessageStage, scene) for scene in MESSAGES]
    + [(GroupStage, scene) for scene in GROUPS]
    + [(LayerStage, scene) for scene in LAYERS]
)

QUICK = {
    "send",
    "send to a new name",
    "send to one who waits",
    "receive",
    "receive by a name in the middle",
    "receive and wait no more",
    "send to many",
    "flush",
    "deliver to many",
    "take from the outbox",
    "move to the outbox",
    "close",
    "make",
    "rebuild and send",
    "join",
    "discard",
    "flush groups",
    "attach groups",
}
"""Those that every Python plays; the others are marked slow."""


def parameters(chosen):
    """What ``pytest.mark.parametrize("kind,scene", ...)`` wants."""
    return [
        pytest.param(
            kind, scene, id=scene.name, marks=[] if scene.name in QUICK else [pytest.mark.slow]
        )
        for kind, scene in chosen
    ]
