//! Does what came fit what was expected?
//!
//! Keeps: arguments that are not named are not compared; numbers compare by value, tables whole.
//! Never: waits or reads.
//! In: `play`, for each `<` line.

use anyhow::{Result, bail};

use super::client::Received;
use super::term::{Arg, Term, Vars, fill};
use crate::wire::content::{self, Content};
use crate::wire::method::{Kind, Spec};
use crate::wire::value::Value;

/// The full name of an argument that a line may call by a short one.
pub fn full_name(spec: &Spec, name: &str) -> String {
    let full = match name {
        "key" => "routing-key",
        "tag" if spec.position("delivery-tag").is_some() => "delivery-tag",
        "tag" => "consumer-tag",
        "code" => "reply-code",
        "text" => "reply-text",
        "class" => "class-id",
        "method" => "method-id",
        "messages" => "message-count",
        "consumers" => "consumer-count",
        "vhost" => "virtual-host",
        other => other,
    };
    full.to_owned()
}

/// Arguments without a name get the ones they stand for: `channel.close 404 "text"`, and flags.
///
/// # Errors
/// A lone word is no flag of this method.
pub fn named(spec: &Spec, args: &[Arg]) -> Result<Vec<(String, Arg)>> {
    let mut list = Vec::new();
    for arg in args {
        if let Some(name) = &arg.name {
            let name = full_name(spec, name);
            if name == "method-id" && arg.term.word().is_some() {
                list.extend(cause(arg)?);
            } else {
                list.push((name, arg.clone()));
            }
            continue;
        }
        let flag = arg
            .term
            .word()
            .filter(|_| arg.bare)
            .and_then(|word| spec.position(word));
        if let Some(at) = flag.filter(|at| spec.fields[*at].1 == Kind::Bit) {
            let set = Arg {
                term: Term::Bool(true),
                ..arg.clone()
            };
            list.push((spec.fields[at].0.to_owned(), set));
        } else if spec.position("reply-code").is_some() {
            let number = matches!(arg.term, Term::Int(..));
            list.push((
                if number { "reply-code" } else { "reply-text" }.to_owned(),
                arg.clone(),
            ));
        } else {
            bail!("{} has no flag {:?}", spec.name, arg.term);
        }
    }
    Ok(list)
}

/// `method=queue.declare` stands for class-id and method-id.
fn cause(arg: &Arg) -> Result<[(String, Arg); 2]> {
    let name = arg.term.word().unwrap_or_default();
    let Some(spec) = Spec::named(name) else {
        bail!("no method is called {name:?}")
    };
    let number = |id: u16| Arg {
        term: Term::Int(None, i64::from(id)),
        ..arg.clone()
    };
    Ok([
        ("class-id".to_owned(), number(spec.class)),
        ("method-id".to_owned(), number(spec.method)),
    ])
}

/// Compares a received method with a line's arguments and captures what `$name` asks for.
///
/// # Errors
/// The first difference, in words.
pub fn check(received: &Received, args: &[(String, Arg)], vars: &mut Vars) -> Result<()> {
    let mut captured = Vars::new();
    for (name, arg) in args {
        let found = found(received, name)?;
        compare(found.as_ref(), arg, vars, &mut captured, &|| name.clone())?;
    }
    vars.append(&mut captured);
    Ok(())
}

fn found(received: &Received, name: &str) -> Result<Option<Value>> {
    if let Some(value) = received.method.get(name) {
        return Ok(Some(value.clone()));
    }
    let spec = received.method.spec;
    let Some(content) = &received.content else {
        bail!("{} has no {name:?}", spec.name)
    };
    Ok(match name {
        "body" => Some(Value::Str(content.body.clone())),
        "body-size" => Some(Value::int(i64::try_from(content.body.len())?)),
        "body-frames" => Some(Value::int(i64::try_from(content.frames)?)),
        _ if content::position(name).is_some() => content.get(name).cloned(),
        _ => bail!("{} has no {name:?}, nor has its content", spec.name),
    })
}

type Path<'p> = &'p dyn Fn() -> String;

fn compare(
    found: Option<&Value>,
    arg: &Arg,
    vars: &Vars,
    captured: &mut Vars,
    path: Path<'_>,
) -> Result<()> {
    let Some(found) = found else {
        if arg.term == Term::None {
            return Ok(());
        }
        bail!("{} is missing", path());
    };
    let fits = match (&arg.term, found) {
        (Term::Any, _) => true,
        (Term::None, _) => false,
        (Term::Void, Value::Void) => true,
        (Term::Bool(flag), Value::Bool(is)) => flag == is,
        (Term::Int(letter, number), Value::Int(is_letter, is)) => {
            number == is && letter.is_none_or(|letter| letter == *is_letter)
        }
        (Term::Time(at), Value::Time(is)) => at == is,
        (Term::Int(None, number), Value::Time(at)) => i64::try_from(*at) == Ok(*number),
        (Term::Float(letter, number), Value::Float(is_letter, is)) => {
            letter == is_letter && number.to_bits() == is.to_bits()
        }
        (Term::Decimal(scale, digits), Value::Decimal(a, b)) => (scale, digits) == (a, b),
        (Term::Bytes(bytes), Value::Bytes(is)) => bytes == is,
        (Term::Str(text), Value::Str(is)) if arg.like => glob(&fill(text, vars)?, is),
        (Term::Str(text), Value::Str(is)) => fill(text, vars)? == *is,
        (Term::Repeat(text, count), Value::Str(is)) => text.repeat(*count) == *is,
        // A word such as `key=1` is a number to the grammar and a text to the method.
        (Term::Int(None, number), Value::Str(is)) => number.to_string().as_bytes() == is,
        (Term::Var(name), Value::Str(is)) => capture(name, is, vars, captured),
        (Term::Var(name), Value::Int(_, is)) => {
            capture(name, is.to_string().as_bytes(), vars, captured)
        }
        (Term::Array(items), Value::Array(is)) => {
            return compare_arrays(items, is, vars, captured, path);
        }
        (Term::Table(entries), Value::Table(is)) => {
            return compare_tables(entries, arg.like, is, vars, captured, path);
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    bail!("{} is {}", path(), show(found))
}

/// The first sight of a name captures, later ones compare.
fn capture(name: &str, is: &[u8], vars: &Vars, captured: &mut Vars) -> bool {
    let text = String::from_utf8_lossy(is).into_owned();
    match vars.get(name).or_else(|| captured.get(name)) {
        Some(known) => *known == text,
        None => captured.insert(name.to_owned(), text).is_none(),
    }
}

fn compare_arrays(
    items: &[Term],
    is: &[Value],
    vars: &Vars,
    captured: &mut Vars,
    path: Path<'_>,
) -> Result<()> {
    if items.len() != is.len() {
        bail!(
            "{} has {} items: {}",
            path(),
            is.len(),
            show(&Value::Array(is.to_vec()))
        );
    }
    for (at, (term, value)) in items.iter().zip(is).enumerate() {
        let arg = Arg {
            name: None,
            like: false,
            term: term.clone(),
            bare: true,
        };
        compare(Some(value), &arg, vars, captured, &|| {
            format!("{}[{at}]", path())
        })?;
    }
    Ok(())
}

fn compare_tables(
    entries: &[Arg],
    more_allowed: bool,
    is: &[(String, Value)],
    vars: &Vars,
    captured: &mut Vars,
    path: Path<'_>,
) -> Result<()> {
    for arg in entries {
        let name = arg.name.as_deref().unwrap_or_default();
        let value = is
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value);
        compare(value, arg, vars, captured, &|| format!("{}.{name}", path()))?;
    }
    let known = |key: &String| entries.iter().any(|arg| arg.name.as_ref() == Some(key));
    match is.iter().find(|(key, _)| !more_allowed && !known(key)) {
        Some((key, value)) => bail!("{}.{key} was not expected: {}", path(), show(value)),
        None => Ok(()),
    }
}

/// `*` stands for any run of bytes, `\*` for the star.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|at| glob(rest, &text[at..])),
        [b'\\', b'*', rest @ ..] => text.first() == Some(&b'*') && glob(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

/// A value in the notation of the files.
pub fn show(value: &Value) -> String {
    match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Int(letter, number) => format!("{}:{number}", char::from(*letter)),
        Value::Float(letter, number) => format!("{}:{number}", char::from(*letter)),
        Value::Decimal(scale, digits) => format!("D:{scale}/{digits}"),
        Value::Str(text) if text.len() > 400 => format!("a text of {} bytes", text.len()),
        Value::Str(text) => {
            format!(
                "\"{}\"",
                text.escape_ascii().to_string().replace("\\'", "'")
            )
        }
        Value::Bytes(bytes) => format!("x:{bytes:02x?}"),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
        }
        Value::Time(at) => format!("T:{at}"),
        Value::Table(table) => {
            let entries: Vec<_> = table
                .iter()
                .map(|(k, v)| format!("{k}={}", show(v)))
                .collect();
            format!("{{{}}}", entries.join(" "))
        }
        Value::Void => "void".to_owned(),
        Value::Encoded(..) => "raw bytes".to_owned(),
    }
}

/// A received method in the notation of the files.
pub fn show_received(received: &Received) -> String {
    let method = &received.method;
    let mut words = vec![method.spec.name.to_owned()];
    for ((name, _), value) in method.spec.fields.iter().zip(&method.fields) {
        if *name != "ticket" {
            let number = value.as_int().filter(|_| !matches!(value, Value::Bool(_)));
            let value = number.map_or_else(|| show(value), |number| number.to_string());
            words.push(format!("{name}={value}"));
        }
    }
    words.extend(
        received
            .content
            .iter()
            .flat_map(|content| show_content(content)),
    );
    words.join(" ")
}

fn show_content(content: &Content) -> Vec<String> {
    let properties = content::PROPERTIES.iter().zip(&content.properties);
    let mut words: Vec<_> = properties
        .filter_map(|((name, _), value)| Some(format!("{name}={}", show(value.as_ref()?))))
        .collect();
    words.push(format!("body={}", show(&Value::Str(content.body.clone()))));
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::term::parse;
    use super::*;
    use crate::wire::method::Method;

    fn close(text: &str) -> Received {
        let method = Method::named("channel.close")
            .and_then(|m| m.with("reply-code", Value::int(404)))
            .and_then(|m| m.with("reply-text", Value::str(text)))
            .and_then(|m| m.with("class-id", Value::int(50)))
            .and_then(|m| m.with("method-id", Value::int(10)))
            .unwrap();
        Received {
            channel: 1,
            method,
            content: None,
        }
    }

    fn fits(received: &Received, line: &str, vars: &mut Vars) -> bool {
        let args = named(received.method.spec, &parse(line).unwrap()).unwrap();
        check(received, &args, vars).is_ok()
    }

    #[test]
    fn closes_compare_code_text_and_cause() {
        let received = close("NOT_FOUND - no queue 'x'");
        let vars = &mut Vars::new();
        assert!(fits(
            &received,
            r#"404 "NOT_FOUND - no queue 'x'" method=queue.declare"#,
            vars
        ));
        assert!(fits(&received, r#"404 text~"NOT_FOUND*" class=50"#, vars));
        assert!(!fits(&received, r#"404 "NOT_FOUND - no queue 'y'""#, vars));
        assert!(!fits(&received, "405", vars));
        assert!(!fits(&received, "404 method=queue.bind", vars));
    }

    #[test]
    fn captures_bind_once() {
        let vars = &mut Vars::new();
        assert!(fits(&close("a"), "text=$t", vars));
        assert!(fits(&close("a"), "text=$t", vars));
        assert!(!fits(&close("b"), "text=$t", vars));
    }

    #[test]
    fn tables_are_compared_whole_unless_alike() {
        let mut content = Content::default();
        let table = vec![
            ("a".to_owned(), Value::int(1)),
            ("b".to_owned(), Value::str("x")),
        ];
        content.properties[2] = Some(Value::Table(table));
        let method = Method::named("basic.deliver").unwrap();
        let received = Received {
            channel: 1,
            method,
            content: Some(Box::new(content)),
        };
        let vars = &mut Vars::new();
        assert!(fits(&received, "headers={a=1 b=x}", vars));
        assert!(fits(&received, "headers={a=I:1 b=*}", vars));
        assert!(!fits(&received, "headers={a=l:1 b=*}", vars));
        assert!(!fits(&received, "headers={a=1}", vars));
        assert!(fits(&received, "headers~{a=1 c=none}", vars));
        assert!(fits(&received, "priority=none", vars));
        assert!(!fits(&received, "headers=none", vars));
    }

    #[test]
    fn stars_in_patterns() {
        assert!(glob(b"a*c", b"abbbc") && glob(b"*", b"") && glob(b"a\\*", b"a*"));
        assert!(!glob(b"a*c", b"abd") && !glob(b"a", b"ab"));
    }
}
