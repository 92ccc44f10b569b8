/* Generated from tunefleet.h. */
#define TF_ABI_HASH "9ee2e47f9f68af8ed10041da86ef36ae08a0a939ff505add41f3f046186b089e"
