//! Predefined registers (PTX section 10).

use super::inst::Special;

/// What is known of a predefined register before launch.
pub(crate) enum Known {
    Constant(u64),
    Varying(Special),
}

/// Finds a register by its name without `%`.
pub(crate) fn parse(name: &str) -> Option<Known> {
    let (base, axis) = match name.split_once('.') {
        Some((base, axis)) => (base, Some(["x", "y", "z"].iter().position(|a| *a == axis))),
        None => (name, None),
    };
    if let Some(axis) = axis {
        // The fourth component is always zero.
        let Some(axis) = axis.and_then(|axis| u8::try_from(axis).ok()) else {
            return name.ends_with(".w").then_some(Known::Constant(0));
        };
        return Some(match base {
            "tid" => Known::Varying(Special::Tid(axis)),
            "ntid" => Known::Varying(Special::Ntid(axis)),
            "ctaid" | "clusterid" => Known::Varying(Special::Ctaid(axis)),
            "nctaid" | "nclusterid" => Known::Varying(Special::Nctaid(axis)),
            "cluster_ctaid" => Known::Constant(0),
            "cluster_nctaid" => Known::Constant(1),
            _ => return None,
        });
    }
    Some(match base {
        "laneid" => Known::Varying(Special::Lane),
        "warpid" => Known::Varying(Special::Warp),
        "nwarpid" => Known::Varying(Special::WarpCount),
        "smid" => Known::Varying(Special::Sm),
        "nsmid" => Known::Varying(Special::SmCount),
        "gridid" => Known::Varying(Special::Grid),
        "clock" | "clock64" => Known::Varying(Special::Clock),
        "globaltimer" | "globaltimer_lo" => Known::Varying(Special::GlobalTimer),
        "lanemask_eq" => Known::Varying(Special::LaneMaskEq),
        "lanemask_le" => Known::Varying(Special::LaneMaskLe),
        "lanemask_lt" => Known::Varying(Special::LaneMaskLt),
        "lanemask_ge" => Known::Varying(Special::LaneMaskGe),
        "lanemask_gt" => Known::Varying(Special::LaneMaskGt),
        "dynamic_smem_size" => Known::Varying(Special::DynamicShared),
        "total_smem_size" | "aggr_smem_size" => Known::Varying(Special::TotalShared),
        "cluster_ctarank" => Known::Constant(0),
        "cluster_nctarank" => Known::Constant(1),
        "is_explicit_cluster" => Known::Constant(0),
        // The address of the grid's barrier in cooperative launches, zero in others.
        "envreg1" => Known::Varying(Special::Workspace(true)),
        "envreg2" => Known::Varying(Special::Workspace(false)),
        "reserved_smem_offset_1" => Known::Varying(Special::ReservedShared),
        _ => return None,
    })
}
