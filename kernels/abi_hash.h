/* Generated from tunefleet.h. */
#define TF_ABI_HASH "c2db575a95dbd09e2cb372bc7c98f49e29625acf70fbec9cd36e7c3c8eb91700"
