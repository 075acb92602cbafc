//! Field tables and properties: what parses comes out as it went in; else it is an error. Pure.
#![no_main]

use amqp::field::{Table, check_table};
use amqp::properties::{self, Properties};
use amqp::sasl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let sound = check_table(input);
    let parsed = Table::parse(input);
    assert_eq!(sound.is_ok(), parsed.is_ok(), "{sound:?} {parsed:?}");
    if let Ok(table) = parsed {
        assert_eq!(Table::parse(&table.encode()), Ok(table.clone()));
        // Only a boolean has two forms: any byte but 0 is true.
        assert_eq!(table.encode().len(), input.len());
    }
    let scanned = properties::scan(input);
    if let Ok(parsed) = Properties::parse(input) {
        assert!(scanned.is_ok(), "{parsed:?}");
        let again = Properties::parse(&parsed.encode());
        assert_eq!(again.as_ref(), Ok(&parsed));
        assert_eq!(properties::expiration(input), parsed.expiration.as_deref());
        assert_eq!(properties::reply_to(input), parsed.reply_to.as_deref());
        assert_eq!(properties::user_id(input), parsed.user_id.as_deref());
    }
    for mechanism in ["PLAIN", "AMQPLAIN", "EXTERNAL", "NONE"] {
        let _ = sasl::credentials(mechanism, input, sasl::MECHANISMS);
    }
});
