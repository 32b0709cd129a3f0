//! The decoded form of a program.

use super::lanes::{Compare, Fn1, Fn2, Fn3};
use super::texture::{Boundary, Geometry};
use crate::ptx::types::Ty;

/// A value operand: a register slot of the frame, or a constant of the program (top bit set).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Src(pub u32);

impl Src {
    pub const CONSTANT: u32 = 1 << 31;
}

/// A predicate operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PredSrc {
    Reg { slot: u32, negated: bool },
    Const(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
    /// The first operand alone.
    Copy,
}

impl BoolOp {
    pub fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            BoolOp::And => a & b,
            BoolOp::Or => a | b,
            BoolOp::Xor => a ^ b,
            BoolOp::Copy => a,
        }
    }
}

/// Modifiers of an instruction that is computed lane by lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mods {
    pub ty: Ty,
    /// The source type, where it is another.
    pub from: Ty,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    pub nan: bool,
    pub round: super::soft::Round,
    /// An integer rounding (`.rni`) of a float-to-float conversion.
    pub integral: bool,
    /// Whatever else the function needs to know.
    pub extra: u32,
}

impl Mods {
    pub fn new(ty: Ty) -> Mods {
        Mods {
            ty,
            from: ty,
            ftz: false,
            sat: false,
            relu: false,
            nan: false,
            round: super::soft::Round::Nearest,
            integral: false,
            extra: 0,
        }
    }
}

/// A function of one lane, for what is too rare or too complex to be a loop of its own.
pub(crate) type ScalarFn = fn(&Mods, [u64; 4]) -> u64;

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub f: ScalarFn,
    pub mods: Mods,
    pub d: u32,
    pub sources: [Src; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemSpace {
    Generic,
    Global,
    Shared,
    Local,
    /// The parameters of the kernel.
    Param,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub space: MemSpace,
    pub base: Src,
    pub offset: i64,
    /// Relative to the frame's local memory.
    pub frame: bool,
    /// Relative to the first byte of dynamic shared memory.
    pub dynamic: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub address: Address,
    /// Bytes of one element.
    pub size: u8,
    pub signed: bool,
    pub count: u8,
    /// `NOWHERE` for an element that is not wanted.
    pub d: [u32; 8],
    pub acquire: bool,
}

/// No register.
pub(crate) const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub address: Address,
    pub size: u8,
    pub count: u8,
    pub values: [Src; 8],
    pub release: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    And,
    Or,
    Xor,
    Add,
    Inc,
    Dec,
    Min,
    Max,
    Exch,
    Cas,
}

#[derive(Debug, Clone)]
pub(crate) struct Atom {
    pub address: Address,
    pub op: AtomOp,
    pub ty: Ty,
    /// `NOWHERE` for `red`.
    pub d: u32,
    pub b: Src,
    pub c: Src,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHi,
}

#[derive(Debug, Clone)]
pub(crate) struct Carry {
    pub op: CarryOp,
    pub ty: Ty,
    pub d: u32,
    pub a: Src,
    pub b: Src,
    pub c: Src,
    pub carry_in: bool,
    pub carry_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// What a `.sync` instruction of a warp does once its lanes are together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum WarpOp {
    Barrier,
    Shuffle { mode: ShuffleMode, d: u32, p: u32, a: Src, b: Src, c: Src },
    Vote { mode: VoteMode, d: u32, p: u32, a: PredSrc },
    MatchAny { d: u32, a: Src, wide: bool },
    MatchAll { d: u32, p: u32, a: Src, wide: bool },
    Redux { op: ReduxOp, signed: bool, d: u32, a: Src },
    Elect { d: u32, p: u32 },
}

#[derive(Debug, Clone)]
pub(crate) struct WarpSync {
    pub op: WarpOp,
    pub mask: Src,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockReduce {
    None,
    Popc { d: u32 },
    And { p: u32 },
    Or { p: u32 },
}

#[derive(Debug, Clone)]
pub(crate) struct BlockBarrier {
    pub id: Src,
    /// Number of threads, where given.
    pub count: Option<Src>,
    pub arrive_only: bool,
    pub reduce: BlockReduce,
    pub value: PredSrc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    WarpCount,
    Sm,
    SmCount,
    Grid,
    Clock,
    GlobalTimer,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicShared,
    TotalShared,
    ActiveMask,
    /// Shared memory that is reserved for cooperative groups.
    ReservedShared,
    /// A half of the address of a cooperative launch's workspace: the upper for true.
    Workspace(bool),
    /// The first byte of dynamic shared memory.
    DynamicBase,
    /// The frame's local memory.
    FrameBase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callee {
    Direct(u32),
    Pointer(Src),
    Print,
    AssertFail,
    Malloc,
    Free,
    SetConditional,
}

#[derive(Debug, Clone)]
pub(crate) struct CallSite {
    pub callee: Callee,
    /// Frame offset and size of each actual argument.
    pub arguments: Vec<(u32, u32)>,
    pub returns: Vec<(u32, u32)>,
}

#[derive(Debug, Clone)]
pub(crate) struct CopyAsync {
    pub to: Address,
    pub from: Address,
    pub size: u32,
    /// Bytes that are read; the rest is filled with zeros.
    pub source_size: Option<Src>,
    /// Reads nothing where true.
    pub ignore: Option<PredSrc>,
}

/// Which level `tex` reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TexLevel {
    /// The first, or what the sampler makes of it.
    Base,
    Level(Src),
    Gradient([[Src; 3]; 2]),
}

/// `tex` and `tld4`.
#[derive(Debug, Clone)]
pub(crate) struct TexFetch {
    pub handle: Src,
    pub geometry: Geometry,
    /// Within the layer.
    pub at: [Src; 3],
    pub layer: Src,
    /// The coordinates are integers.
    pub integer: bool,
    pub level: TexLevel,
    /// The channel that `tld4` gives.
    pub gather: Option<u8>,
    /// Two results of packed halves instead of four.
    pub packed: bool,
    /// `NOWHERE` for an element that is not wanted.
    pub d: [u32; 4],
    /// Set to true: all memory is resident. `NOWHERE` if not asked.
    pub resident: u32,
}

/// `suld`, `sust` and `sured`.
#[derive(Debug, Clone)]
pub(crate) struct SurfAccess {
    pub handle: Src,
    /// Byte of the row, row, plane or layer.
    pub at: [Src; 3],
    pub size: u8,
    pub count: u8,
    pub boundary: Boundary,
    pub kind: SurfKind,
}

#[derive(Debug, Clone)]
pub(crate) enum SurfKind {
    Load([u32; 4]),
    Store([Src; 4]),
    Reduce { op: AtomOp, ty: Ty, b: Src },
}

/// What `txq` and `suq` ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageQuery {
    Width,
    Height,
    Depth,
    ArraySize,
    Levels,
    Normalized,
    ChannelType,
    ChannelOrder,
}

/// What one decoded instruction does.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Un {
        f: Fn1,
        d: u32,
        a: Src,
    },
    Bin {
        f: Fn2,
        d: u32,
        a: Src,
        b: Src,
    },
    Tri {
        f: Fn3,
        d: u32,
        a: Src,
        b: Src,
        c: Src,
    },
    Move {
        d: u32,
        a: Src,
    },
    Scalar(Box<Scalar>),
    Carry(Box<Carry>),
    Setp {
        f: Compare,
        a: Src,
        b: Src,
        p: u32,
        q: u32,
        op: BoolOp,
        c: PredSrc,
    },
    /// Like `Setp`, with `yes` or 0 as the result.
    Set {
        f: Compare,
        a: Src,
        b: Src,
        d: u32,
        yes: u32,
        op: BoolOp,
        c: PredSrc,
    },
    Select {
        d: u32,
        a: Src,
        b: Src,
        p: PredSrc,
    },
    Logic {
        op: BoolOp,
        p: u32,
        a: PredSrc,
        b: PredSrc,
        negate: bool,
    },
    Pack {
        d: u32,
        parts: Box<[Src]>,
        bits: u32,
    },
    Unpack {
        d: Box<[u32]>,
        a: Src,
        bits: u32,
    },
    Special {
        d: u32,
        which: Special,
    },
    Space {
        p: u32,
        a: Src,
        space: MemSpace,
    },
    Load(Box<Load>),
    Store(Box<Store>),
    Atom(Box<Atom>),
    CopyAsync(Box<CopyAsync>),
    Texture(Box<TexFetch>),
    Surface(Box<SurfAccess>),
    Query {
        d: u32,
        handle: Src,
        query: ImageQuery,
        is_surface: bool,
    },
    Alloca {
        d: u32,
        size: Src,
        align: u32,
    },
    Fence,
    Branch {
        target: u32,
    },
    BranchIndex {
        index: Src,
        targets: Box<[u32]>,
    },
    Call(Box<CallSite>),
    Return,
    Exit,
    Trap,
    /// Gives other warps and blocks a turn.
    Yield,
    Nop,
    Warp(Box<WarpSync>),
    Block(Box<BlockBarrier>),
    /// Index into the program's problems.
    Unsupported(u32),
}

/// The guard of an instruction that has none.
pub(crate) const ALWAYS: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub op: Op,
    /// Predicate slot, or `ALWAYS`.
    pub guard: u32,
    pub guard_negated: bool,
    pub line: u32,
}
