package data

// Row is one sample. Which fields are set depends on the data set and on the columns that the spec maps.
type Row struct {
	// Index is the place of the row among the rows kept, from 0: its identity within a data set.
	Index int `json:"index"`
	// Text is plain text (pretraining, classification).
	Text string `json:"text,omitempty"`
	// System, Prompt and Response are the turns of a conversation.
	System   string `json:"system,omitempty"`
	Prompt   string `json:"prompt,omitempty"`
	Response string `json:"response,omitempty"`
	// Label is the class, Explanation why it is the class.
	Label       string `json:"label,omitempty"`
	Explanation string `json:"explanation,omitempty"`
	// Group names rows that must stay on one side of the split, such as those of one wording.
	Group string `json:"group,omitempty"`
	// Split is "train", "eval" or "test".
	Split string `json:"split,omitempty"`
	// Origin says what a copy was made of; nil for a row of the data set.
	Origin *Origin `json:"origin,omitempty"`
}

// Origin is the provenance of a row that augmentation or balancing made.
type Origin struct {
	// Row is the Index of the row it was made of.
	Row    int    `json:"row"`
	Method string `json:"method"`
	// Changes say what was changed, in words.
	Changes []string `json:"changes,omitempty"`
}

// User is the content of the user's turn: the prompt, or else the text.
func (r *Row) User() string {
	if r.Prompt != "" {
		return r.Prompt
	}
	return r.Text
}

// Answer is the content of the assistant's turn: the response, or else the label and the explanation on lines of their own.
func (r *Row) Answer() string {
	switch {
	case r.Response != "":
		return r.Response
	case r.Label == "":
		return r.Explanation
	case r.Explanation == "":
		return r.Label
	}
	return r.Label + "\n" + r.Explanation
}

// Plain is the text of a row for pretraining: the text, or else what the turns hold.
func (r *Row) Plain() string {
	if r.Text != "" {
		return r.Text
	}
	u, a := r.User(), r.Answer()
	if u == "" || a == "" {
		return u + a
	}
	return u + "\n" + a
}
