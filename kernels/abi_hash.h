/* Generated from tunefleet.h. */
#define TF_ABI_HASH "9bf08b7276aaa5ef95ff92c22304e35773631f5727a299333122e0e73a5a1ec1"
