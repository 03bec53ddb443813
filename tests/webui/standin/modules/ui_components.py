"""A checkbox that is an accordion too."""

import gradio as gr


class InputAccordion(gr.Checkbox):
    def __init__(self, value, *, elem_id, label):
        super().__init__(value, label=label, elem_id=f"{elem_id}-checkbox")
        self.accordion = gr.Accordion(label=label, elem_id=elem_id, open=value)
        self.change(lambda shown: gr.update(open=shown), self, self.accordion, show_progress=False, queue=False)

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, *exception):
        self.accordion.__exit__(*exception)

    def get_block_name(self):
        return "checkbox"
