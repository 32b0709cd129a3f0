//! What textures and surfaces read and write: images, and the rules of sampling (CUDA programming guide, "Texture Fetching").

mod axis;
mod cube;
mod format;
mod image;
mod sample;

pub use axis::AddressMode;
pub use format::{Channel, Format};
pub use image::{Boundary, Image, Layout, Level, OutOfBounds};
pub(in crate::exec) use image::{read_array, write_array};
pub use sample::{BadTexel, Lod, Position, Sampler, Texture};

/// The coordinates that an instruction gives: `.1d`, `.a2d` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// x
    D1,
    /// x, y
    D2,
    /// x, y, z
    D3,
    /// Layer, x
    Layered1,
    /// Layer, x, y
    Layered2,
    /// A direction.
    Cube,
    /// Layer and a direction.
    LayeredCube,
}

impl Geometry {
    /// Dimensions within a layer.
    pub fn dimensions(self) -> usize {
        match self {
            Geometry::D1 | Geometry::Layered1 => 1,
            Geometry::D2 | Geometry::Layered2 => 2,
            Geometry::D3 | Geometry::Cube | Geometry::LayeredCube => 3,
        }
    }

    /// Whether the first coordinate is a layer.
    pub fn is_layered(self) -> bool {
        matches!(self, Geometry::Layered1 | Geometry::Layered2 | Geometry::LayeredCube)
    }
}

/// What a surface object shows.
#[derive(Clone, Debug)]
pub struct Surface {
    /// The array, of one level.
    pub image: Image,
}
