/* Generated from tunefleet.h. */
#define TF_ABI_HASH "a6a55e1037918656f612a3ecd531db6a400352dc640f5067800d6ce776568472"
