"""The base class of scripts."""

import re

AlwaysVisible = object()
scripts_data = []


class Script:
    is_img2img = False
    section = None
    create_group = True
    infotext_fields = None
    paste_field_names = None
    on_after_component_elem_id = None

    def on_after_component(self, callback, *, elem_id):
        self.on_after_component_elem_id = [*(self.on_after_component_elem_id or []), (elem_id, callback)]

    def elem_id(self, item_id):
        tab = ("img2img_" if self.is_img2img else "txt2img_") if self.show(True) == self.show(False) else ""
        return f"script_{tab}{re.sub(r'[^a-z_0-9]', '', self.title().lower())}_{item_id}"
