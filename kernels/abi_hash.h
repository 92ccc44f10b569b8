/* Generated from tunefleet.h. */
#define TF_ABI_HASH "6c2c9cbb92f31eefa4ac3d971efe1d5595bcfb151f268965d97a9c311de214d3"
