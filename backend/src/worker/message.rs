//! Parsing of lane messages.

use vgpu_spec::wire::lane::{Dependency, MAX_DEPENDENCIES, MessageHeader};
use vgpu_spec::wire::split;
use zerocopy::FromBytes;

use super::executor::Message;

/// Why a message was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MessageError {
    #[error("a message of {0} bytes")]
    Short(usize),
    #[error("a message says that it has {len} bytes, its descriptor has {available}")]
    Length { len: u32, available: usize },
    #[error("a message with {0} dependencies")]
    Dependencies(u16),
}

/// A message's dependencies, not decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct Dependencies<'a>(&'a [u8]);

impl Dependencies<'_> {
    pub fn iter(&self) -> impl Iterator<Item = Dependency> + '_ {
        self.0.chunks_exact(size_of::<Dependency>()).filter_map(|b| Dependency::read_from_bytes(b).ok())
    }
}

/// Splits the bytes of a descriptor into a message and its dependencies. Bytes beyond the message's length are ignored.
pub fn parse(bytes: &[u8]) -> Result<(Message<'_>, Dependencies<'_>), MessageError> {
    let (header, _) = split::<MessageHeader>(bytes).ok_or(MessageError::Short(bytes.len()))?;
    let length = MessageError::Length { len: header.len, available: bytes.len() };
    let count = usize::from(header.dependencies);
    if count > MAX_DEPENDENCIES {
        return Err(MessageError::Dependencies(header.dependencies));
    }
    let start = size_of::<MessageHeader>();
    let middle = start + count * size_of::<Dependency>();
    let (Some(dependencies), Some(args)) = (bytes.get(start..middle), bytes.get(middle..header.len as usize))
    else {
        return Err(length);
    };
    let message = Message {
        function: header.function,
        thread: header.thread,
        context: header.context,
        flags: header.flags,
        end: None,
        args,
    };
    Ok((message, Dependencies(dependencies)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn message(len: u32, dependencies: u16, rest: &[u8]) -> Vec<u8> {
        let header =
            MessageHeader { function: 1, len, thread: 2, context: 3, dependencies, flags: 4, number: 0 };
        [header.as_bytes(), rest].concat()
    }

    #[test]
    fn message_is_split_into_dependencies_and_arguments() {
        let dependency = Dependency { lane: 9, reserved: 0, count: 77 };
        let bytes = message(36, 1, &[dependency.as_bytes(), b"argsrest"].concat());
        let (message, dependencies) = parse(&bytes).unwrap();
        assert_eq!((message.function, message.thread, message.context, message.flags), (1, 2, 3, 4));
        assert_eq!(message.args, b"args");
        assert_eq!(dependencies.iter().collect::<Vec<_>>(), [dependency]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(parse(&[0; 23]).unwrap_err(), MessageError::Short(23));
        for (len, dependencies, rest) in [(23, 0, 0), (25, 0, 0), (u32::MAX, 0, 8), (24, 1, 8), (32, 1, 7)] {
            let bytes = message(len, dependencies, &vec![0; rest]);
            let error = MessageError::Length { len, available: bytes.len() };
            assert_eq!(parse(&bytes).unwrap_err(), error, "{len} {dependencies} {rest}");
        }
        let many = message(24 + 65 * 8, 65, &[0; 65 * 8]);
        assert_eq!(parse(&many).unwrap_err(), MessageError::Dependencies(65));
    }
}
