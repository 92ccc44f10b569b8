/* Generated from tunefleet.h. */
#define TF_ABI_HASH "461f9e86653695ff1c7cf1062ca0b50329c2e22ed939f237b687a50d6770cdad"
