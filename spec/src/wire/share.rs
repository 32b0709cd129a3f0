//! What one client shares with others of its VM: each share has a token, a random name. Who knows it may use the share.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The random name of a share, made by the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Token {
    pub low: u64,
    pub high: u64,
}

/// [`Ticket::magic`].
pub const TICKET_MAGIC: u64 = u64::from_le_bytes(*b"vgpushar");

/// What lies in the socket that stands for an exported file: the holder reads it with MSG_PEEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ticket {
    /// [`TICKET_MAGIC`].
    pub magic: u64,
    pub token: Token,
}

/// Bytes of a handle that programs pass on (CUipcMemHandle, CUipcEventHandle, CUmemPoolPtrExportData).
pub const HANDLE_LEN: usize = 64;

impl Token {
    /// A handle for programs: the token, then zeros.
    pub fn to_handle(self) -> [u8; HANDLE_LEN] {
        let mut bytes = [0; HANDLE_LEN];
        bytes[..size_of::<Token>()].copy_from_slice(self.as_bytes());
        bytes
    }

    /// The token of a handle; `None` for what [`Token::to_handle`] does not make.
    pub fn from_handle(bytes: &[u8; HANDLE_LEN]) -> Option<Token> {
        let (token, rest) = Token::read_from_prefix(bytes).ok()?;
        (token != Token::default() && rest.iter().all(|&b| b == 0)).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_a_token_and_nothing_else() {
        let token = Token { low: 1, high: 2 };
        let handle = token.to_handle();
        assert_eq!(Token::from_handle(&handle), Some(token));
        assert_eq!(Token::from_handle(&[0; HANDLE_LEN]), None);
        let mut other = handle;
        other[63] = 1;
        assert_eq!(Token::from_handle(&other), None);
    }
}
