/* Generated from tunefleet.h. */
#define TF_ABI_HASH "2c2f38e0f2c5da9a59d08609423127d1f83f41f845d77c2141987da4dad519cf"
