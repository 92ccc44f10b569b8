// Package export writes the model of a train stage in the forms that users' tools read: a PEFT adapter folder and a merged Hugging Face
// folder.
package export
