//! The grammar of a command, for people who ask for it. It is the comment above the function that parses the command, so
//! it cannot differ from what a reader of the code sees.

use super::VERBS;

/// The files whose comments have a grammar.
const PARSERS: [&str; 3] = [
    include_str!("classic.rs"),
    include_str!("tuning.rs"),
    include_str!("meta.rs"),
];

/// The grammar of a command, with what the comment says about it. `None`: there is no such command.
pub fn of(verb: &str) -> Option<String> {
    if !VERBS.contains(&verb) {
        return None;
    }
    let paragraphs = PARSERS.iter().flat_map(|source| source.split("\n\n"));
    for paragraph in paragraphs {
        let comment = paragraph
            .lines()
            .map_while(|line| line.strip_prefix("/// "));
        let comment = comment.collect::<Vec<_>>().join("\n");
        // Every second part is inside of backticks.
        let mut forms = comment.split('`').skip(1).step_by(2);
        let is_of_verb = |form: &str| {
            let names = form.split(' ').next().unwrap_or(form);
            names.split('|').any(|name| name == verb)
        };
        if comment.starts_with('`') && forms.any(is_of_verb) {
            return Some(comment.replace('`', ""));
        }
    }
    // `mn`, `version` and `quit` have no parser, because they are one word.
    Some(verb.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_the_grammar_that_is_above_its_parser() {
        for verb in VERBS {
            let grammar = of(verb).unwrap();
            let is_one_word = ["mn", "version", "quit"].contains(&verb);
            assert_eq!(grammar == verb, is_one_word, "{verb}: {grammar}");
        }
        let touch = "touch <key> <exptime> [noreply]";
        assert_eq!(of("touch").as_deref(), Some(touch));
        assert!(
            of("prepend")
                .unwrap()
                .starts_with("set|add|replace|append|prepend <key> ")
        );
        assert_eq!(of("nonsense"), None);
        assert_eq!(of("all"), None);
    }
}
