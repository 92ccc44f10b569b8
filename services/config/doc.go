// Package config turns what people write (a run spec in YAML, or the simpler model/training/data form) into a resolved schemas.RunSpec.
//
// A file is parsed once into a tree with positions; anchors, aliases, tags and duplicate keys are refused, so that what one reads is
// what one gets. Overrides (key=value) are applied to the tree. Then all problems are reported together, each with its place and, for
// an unknown key, the nearest known one. Local paths become inputs: they are hashed here and uploaded by the caller.
package config
