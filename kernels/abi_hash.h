/* Generated from tunefleet.h. */
#define TF_ABI_HASH "62c656ccea8c74b4656d14a7646fae4469cd47e0686308166e0d88625724fd0b"
