/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads for rust/bindings.rs. */
#include <linux/kconfig.h>
#include "protocol.h"
#include "mib.h"
#include "c/dc.h"
#include "../include/uapi/linux/mptcp_dc.h"

/* clang evaluates these, so Rust knows offsets and not whole structures. */
enum dc_offsets {
#define X(type, field) DC_OFF_##type##__##field = offsetof(struct type, field),
	DC_FIELDS(X)
#undef X
};

/* Macros of protocol.h that bindgen can't read, under the same names. */
enum dc_suboptions {
	DC_MPC_SYN = OPTION_MPTCP_MPC_SYN,
	DC_MPC_SYNACK = OPTION_MPTCP_MPC_SYNACK,
	DC_MPC_ACK = OPTION_MPTCP_MPC_ACK,
	DC_MPJ_SYN = OPTION_MPTCP_MPJ_SYN,
	DC_MPJ_SYNACK = OPTION_MPTCP_MPJ_SYNACK,
	DC_MPJ_ACK = OPTION_MPTCP_MPJ_ACK,
	DC_FASTCLOSE = OPTION_MPTCP_FASTCLOSE,
};
