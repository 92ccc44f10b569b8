/* Generated from tunefleet.h. */
#define TF_ABI_HASH "95c5a5528dfa24f15a519a0f48cca5e9f75ad42ffc04dd55f94a37a578dff7a7"
