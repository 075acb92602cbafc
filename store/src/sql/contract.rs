//! One suite for every engine: what `Backend` promises, verb by verb.
//!
//! Keeps: a promise that no case here names is no promise.
//! Never: looks behind the seam, except in the cases that are about one engine.
