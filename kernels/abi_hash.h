/* Generated from tunefleet.h. */
#define TF_ABI_HASH "865803d4af90f302e77d3c0109e69200a42c8890ae192eba2dfc03efef253939"
