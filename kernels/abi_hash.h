/* Generated from tunefleet.h. */
#define TF_ABI_HASH "73a137a2899e40e83676ea4548784416930c266dee93b69d9c0008c2da20de10"
