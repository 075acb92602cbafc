//! The suites: whose they are, and what they need.
//!
//! Keeps: one line per suite, in the order of the compatibility page.
//! Never: runs one; knows a test by name.
//! In: `suites`.

use std::time::Duration;

/// A suite of `tests/suites/NAME`.
pub(crate) struct Suite {
    /// Also the folder's name.
    pub(crate) name: &'static str,
    /// For the reader of the page: whose library for which language.
    pub(super) client: &'static str,
    /// The client's version, as the folder pins it.
    pub(super) version: &'static str,
    /// Which of its tests.
    pub(super) what: &'static str,
    /// Runs with every change.
    pub(super) fast: bool,
    /// How long a run may take at most, in minutes; well above what it takes.
    pub(super) minutes_max: u64,
}

impl Suite {
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(self.minutes_max * 60)
    }
}

pub(super) const SUITES: &[Suite] = &[
    Suite {
        name: "py-amqp",
        client: "py-amqp, Python",
        version: "5.4.2",
        what: "`t/integration`, with TLS",
        fast: true,
        minutes_max: 10,
    },
    Suite {
        name: "kombu",
        client: "kombu, Python",
        version: "5.7.0",
        what: "`t/integration/test_py_amqp.py`",
        fast: true,
        minutes_max: 20,
    },
    Suite {
        name: "amqp-tools",
        client: "amqp-tools (librabbitmq), C",
        version: "0.11.0",
        what: "our smoke test, as it comes without one",
        fast: true,
        minutes_max: 5,
    },
    Suite {
        name: "amqp091-go",
        client: "amqp091-go, Go",
        version: "1.16.0",
        what: "all, with the tag `integration`",
        fast: true,
        minutes_max: 15,
    },
    Suite {
        name: "aiormq",
        client: "aiormq, Python",
        version: "6.9.3",
        what: "all, with TLS",
        fast: false,
        minutes_max: 30,
    },
    Suite {
        name: "aio-pika",
        client: "aio-pika, Python",
        version: "10.2.1",
        what: "all, with TLS",
        fast: false,
        minutes_max: 45,
    },
    Suite {
        name: "lapin",
        client: "lapin, Rust",
        version: "4.12.3",
        what: "all of the crate",
        fast: false,
        minutes_max: 10,
    },
    Suite {
        name: "amqprs",
        client: "amqprs, Rust",
        version: "2.1.5",
        what: "all of the crate",
        fast: false,
        minutes_max: 15,
    },
    Suite {
        name: "celery",
        client: "celery, Python",
        version: "5.7.0",
        what: "the files of `t/integration` that use the broker, without canvas",
        fast: false,
        minutes_max: 40,
    },
    Suite {
        name: "celery-canvas",
        client: "celery, Python",
        version: "5.7.0",
        what: "`t/integration/test_canvas.py`",
        fast: false,
        minutes_max: 45,
    },
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    /// Debian's package is whatever the machine has.
    const NOT_PINNED: &[&str] = &["amqp-tools"];

    #[test]
    fn each_suite_has_its_folder_and_pins_the_version_it_tells() {
        for suite in SUITES {
            let folder = crate::root().join("tests/suites").join(suite.name);
            assert!(folder.join("suite.sh").is_file(), "{}", suite.name);
            if NOT_PINNED.contains(&suite.name) {
                continue;
            }
            let pins = ["requirements.txt", "go.mod", "Cargo.toml"];
            let texts = pins.map(|file| fs::read_to_string(folder.join(file)).unwrap_or_default());
            let pinned = texts.iter().any(|text| text.contains(suite.version));
            assert!(pinned, "{} {} is not pinned", suite.name, suite.version);
        }
    }
}
