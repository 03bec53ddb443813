"""Grids of pictures and their legends."""

from PIL import Image


class GridAnnotation:
    def __init__(self, text=""):
        self.text = text


def image_grid(imgs, rows=None):
    columns = -(-len(imgs) // rows)
    width, height = imgs[0].size
    grid = Image.new("RGB", (columns * width, rows * height))
    for number, picture in enumerate(imgs):
        grid.paste(picture, (number % columns * width, number // columns * height))
    return grid


def draw_grid_annotations(im, width, height, hor_texts, ver_texts, margin=0):
    assert (im.width // width, im.height // height) == (len(hor_texts), len(ver_texts))
    return im


def save_image(image, path, basename, **options):
    pass
