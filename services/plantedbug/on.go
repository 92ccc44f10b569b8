//go:build plantedbug

package plantedbug

import "os"

// Built reports whether bugs can be planted in this binary.
const Built = true

// Is reports whether the bug is planted.
func Is(name string) bool { return os.Getenv(Variable) == name }

// Env is what a rank process needs in its environment for the bug of its agent.
func Env() []string { return []string{Variable + "=" + os.Getenv(Variable)} }
