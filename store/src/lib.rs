//! The store: what is accepted is kept, held by one, and settled once.

pub mod error;
pub mod log {
    pub mod batch;
}
pub mod model;
pub mod sql;
