//! Every bound of the protocol side, with its reason.

use std::time::Duration;

/// Largest frame before login: RabbitMQ accepts 8,192 B, and a client's properties fit.
pub const PRE_AUTH_FRAME_MAX: u32 = 8192;
/// Smallest negotiable frame: §4.2.3; RabbitMQ 4.1 asks 8,192, older clients offer 4,096.
pub const FRAME_MIN: u32 = 4096;
/// Offered frame size, as RabbitMQ's.
pub const FRAME_MAX: u32 = 131_072;
/// Bytes of a frame around its payload: type, channel, size, end.
pub const FRAME_OVERHEAD: usize = 8;
/// Offered channels per connection, as RabbitMQ's.
pub const CHANNEL_MAX: u16 = 2047;
/// Offered heartbeat, seconds, as RabbitMQ's.
pub const HEARTBEAT: u16 = 60;
/// Nesting of tables and arrays: deeper ones only serve to exhaust a stack.
pub const TABLE_DEPTH_MAX: usize = 32;
/// Values in one table, nested ones included: a one-byte value costs 32 bytes decoded.
pub const TABLE_VALUES_MAX: usize = 4096;
/// Body size accepted by default: that of RabbitMQ 3.x, for 4.x went down to 16 MiB and refuses
/// what was fine before.
pub const MESSAGE_MAX: u64 = 128 << 20;
/// No configuration goes above: RabbitMQ's hard cap.
pub const MESSAGE_CAP: u64 = 512 << 20;
/// Content under assembly per connection, so that channels cannot multiply a message's size; at
/// least two of the largest messages.
pub const ASSEMBLING_MAX: u64 = 64 << 20;
/// From accept to connection.open, as RabbitMQ's handshake_timeout.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Before the socket of a failed login is dropped without a word, or one whose frames are broken
/// without a close-ok, as RabbitMQ's.
pub const SILENT_CLOSE: Duration = Duration::from_secs(3);
/// Waiting for close-ok, as RabbitMQ's.
pub const CLOSE_OK: Duration = Duration::from_secs(30);
/// Length of a reply text in bytes: a short string.
pub const TEXT_MAX: usize = 255;
/// Bytes of output a quiet connection may keep room for: thousands of them must not add up.
pub const IDLE_ROOM: usize = 4096;
