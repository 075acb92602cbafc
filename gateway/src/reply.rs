//! The one translation of store errors: AMQP code and scope.
//!
//! Keeps: every variant has a row; a new one does not compile until it has.

use amqp::reply::Close;
use store::Error;

/// The close that tells an AMQP client.
pub fn close(error: &Error, cause: (u16, u16)) -> Close {
    let text = error.to_string();
    match error {
        Error::NotFound { .. } => Close::channel(404, text, cause),
        Error::Refused { .. } => Close::channel(403, text, cause),
        Error::PreconditionFailed { .. } | Error::TooLarge { .. } | Error::Exists { .. } => {
            Close::channel(406, text, cause)
        }
        Error::Exclusive { .. } => Close::channel(405, text, cause),
        Error::NotAllowed { .. } => Close::connection(530, text, cause),
        Error::NotImplemented { .. } => Close::connection(540, text, cause),
        Error::Busy { .. } | Error::Corrupt { .. } | Error::Io(_) => {
            Close::connection(541, text, cause)
        }
        Error::Stopped => Close::connection(320, text, cause),
    }
}
