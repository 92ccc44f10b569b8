/* Generated from tunefleet.h. */
#define TF_ABI_HASH "9e267ee9d9ca867a6ef24b73e8349dab64cf2c18ab2347552514e9a3890f67d6"
