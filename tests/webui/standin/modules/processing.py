"""Making pictures; the tests put in what they need."""


def program_version():
    return "stand-in"


def fix_seed(p):
    pass


def process_images(p):
    raise NotImplementedError


def create_infotext(p, prompts, seeds, subseeds):
    return str(p.extra_generation_params)


class Processed:
    def __init__(self, p, images_list, **rest):
        self.images = images_list
        self.comments = ""
        vars(self).update(rest)
