"""Making pictures, of which this host makes none; `PictureHost` of the tests makes some."""


def program_version():
    return "stand-in"


def fix_seed(p):
    pass


def process_images(p):
    return process_images_inner(p)


def process_images_inner(p):
    return Processed(p, [], infotexts=[], index_of_first_image=0)


def create_infotext(p, prompts, seeds, subseeds):
    return str(p.extra_generation_params)


class Processed:
    def __init__(self, p, images_list, **rest):
        self.images = images_list
        self.comments = ""
        vars(self).update(rest)
