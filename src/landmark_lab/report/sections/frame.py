"""The vectors of an embedding as colours: the places of an object frame.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017, figures 3, 6 and 7.
"""

from landmark_lab.report.blocks import Picture, Pictures, Section
from landmark_lab.report.context import Context
from landmark_lab.report.pictures import data_uri


def frame(context: Context) -> Section | None:
    """Each image beside the map of its vectors as colours."""
    shown = context.frames
    if shown is None:
        return None
    groups = []
    for row, index in enumerate(shown.index.tolist()):
        image = Picture(data_uri(shown.images[row]), f"{shown.split} image {index}")
        painted = data_uri(shown.painted(row))
        groups.append([image, Picture(painted, f"The vectors of image {index} as colours")])
    if shown.dimension <= 3:
        kind = "direction of the vector"
    else:
        kind = f"three principal components of the {shown.dimension}-dimensional vectors"
    lead = (
        f"Every pixel's vector as a colour ({kind}): a part of the object should have one colour "
        "in all images, and neighbouring parts similar ones. Colours that stay at one place of "
        "the picture while the object moves, or one colour for all, mean that nothing was learned."
    )
    caption = "Dark: short vectors, of which the method is not certain, and what is no object."
    if bool((shown.certainty == 1).all()):
        caption = ""
    return Section("frame", "Object frame", lead, [Pictures(groups, caption, size="medium")])
