//! Messages of `rwkv-train` as this program says them.

use rwkv_train::TrainOptions;

/// Says what went wrong, with options as flags, and with the machine of each rank that is named if there are several;
/// `machines` are those of all ranks.
pub fn complain(message: &str, machines: &[String]) {
    eprintln!("rwkv-mpi: {}", with_machines(&with_flags(message), machines));
}

/// A message with its options as flags: they are named as fields in it.
fn with_flags(message: &str) -> String {
    let options = TrainOptions::table();
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let (mut out, mut rest) = (String::new(), message);
    while !rest.is_empty() {
        let end = rest.find(|letter| !is_of_name(letter)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        // A word of one syllable could be any; at the beginning it is what the message is about.
        let is_option = options.iter().any(|option| option.field == word)
            && (word.contains('_') || out.is_empty() && after.starts_with(" is "));
        if is_option {
            out += "--";
            out += &word.replace('_', "-");
        } else {
            out += word;
        }
        let next = after.find(is_of_name).unwrap_or(after.len());
        out += &after[..next];
        rest = &after[next..];
    }
    out
}

/// A message with the machine of each rank that it names, where it does so first.
fn with_machines(message: &str, machines: &[String]) -> String {
    let mut message = message.to_owned();
    if machines.iter().all(|machine| *machine == machines[0]) {
        return message;
    }
    for (rank, machine) in machines.iter().enumerate() {
        let name = format!("rank {rank}");
        let is_whole =
            |at: &usize| !message[at + name.len()..].starts_with(|next: char| next.is_ascii_digit());
        let first = message.match_indices(&name).map(|(at, _)| at).find(is_whole);
        if let Some(at) = first {
            message.insert_str(at + name.len(), &format!(" ({machine})"));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_in_messages_are_flags() {
        for (message, expected) in [
            ("batch_size is 3; it must be a multiple of 2", "--batch-size is 3; it must be a multiple of 2"),
            ("dropout is 2; it must be at least 0", "--dropout is 2; it must be at least 0"),
            ("the data of rank 1 is not that of rank 0", "the data of rank 1 is not that of rank 0"),
            ("a.txt: left out with local_steps", "a.txt: left out with --local-steps"),
            ("", ""),
        ] {
            assert_eq!(with_flags(message), expected);
        }
    }

    #[test]
    fn ranks_in_messages_have_their_machines() {
        let machines = |count: usize| (0..count).map(|rank| format!("host{}", rank / 4)).collect::<Vec<_>>();
        let message = "rank 10: a.txt of rank 1 is not that of rank 10";
        let expected = "rank 10 (host2): a.txt of rank 1 (host0) is not that of rank 10";
        assert_eq!(with_machines(message, &machines(11)), expected);
        assert_eq!(with_machines(message, &machines(4)), message);
        assert_eq!(with_machines(message, &[]), message);
    }
}
