// Package chat forms conversations into what is tokenized, as LLaMA-Factory (0.9.6.dev0) does: its 124 chat templates with their flags, the
// formats in which tools, calls and results are written (13), thinking modes, and the tokens that a template adds to a tokenizer.
//
// The templates are data (templates.json, which extract/extract.py writes from a checkout of LLaMA-Factory, Apache-2.0); what they mean is
// code of this package. A template yields elements, and each element is tokenized on its own: the borders between them are part of the format.
package chat
