/* The kernels that work on f32, bf16 and f16; see cpu_t_rows.h for the macros, which are undefined again. */
#include "cpu_t_rows.h"
#include "cpu_t_drop.h"
#include "cpu_t_attn.h"
#include "cpu_t_moe.h"

#undef E
#undef K
#undef E_ROW
#undef e_ldn
#undef e_stn
#undef e_get
#undef e_set
#undef PACK_A
#undef PACK_ROWS
#undef PACK_COLS
