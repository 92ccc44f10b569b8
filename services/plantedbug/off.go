//go:build !plantedbug

package plantedbug

// Built reports whether bugs can be planted in this binary.
const Built = false

// Is reports whether the bug is planted.
func Is(string) bool { return false }

// Env is what a rank process needs in its environment for the bug of its agent.
func Env() []string { return nil }
