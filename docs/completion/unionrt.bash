# SPDX-License-Identifier: Apache-2.0
# Bash completion for unionrt.
# Use: source docs/completion/unionrt.bash, or copy it to /usr/share/bash-completion/completions/unionrt

# Prints the options of a command (of the program, without one) as its help has them: --NAME, -N if there is one, VALUE or nothing.
_unionrt_options() {
    unionrt ${1:+"$1"} --help 2>/dev/null |
        sed -n 's/^  \(-\(.\),\|   \) --\([a-z0-9-]*\) \?\([^ ]*\).*/--\3 -\2 \4/p'
}

# Prints what the value of an option is called in the help; nothing for a switch.
_unionrt_value() {
    _unionrt_options "$1" | while read -r long short value; do
        [[ $2 == "$long" || $2 == "$short" ]] && printf '%s\n' "$value"
    done
}

_unionrt_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
}

# Completes the value of an option by what the help calls it: DIR, FILE, a choice such as text|json.
_unionrt_complete_value() {
    case $1 in
        *DIR) mapfile -t COMPREPLY < <(compgen -d -- "$2"); compopt -o filenames 2>/dev/null ;;
        *FILE | *PATH) mapfile -t COMPREPLY < <(compgen -f -- "$2"); compopt -o filenames 2>/dev/null ;;
        *\|*) _unionrt_words "${1//|/ }" "$2" ;;
    esac
}

_unionrt() {
    local current=${COMP_WORDS[COMP_CWORD]} command="" root=() arguments=0 index word option="" value=""
    COMPREPLY=()
    [[ $current == = ]] && current=""
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ $word == = ]]; then
            [[ $value ]] || ((index++)) # bash splits --root=DIR and A=1 at the sign
        elif [[ $value ]]; then
            [[ $option == --root ]] && root=(--root "$word")
            value=""
        elif [[ $word == -* ]]; then
            option=$word value=$(_unionrt_value "$command" "$word")
        elif [[ ! $command ]]; then
            command=$word
        else
            ((arguments++))
        fi
    done
    if [[ $value ]]; then
        _unionrt_complete_value "$value" "$current"
    elif [[ $command == exec && $arguments -gt 0 ]]; then
        return # a command line of the container's
    elif [[ $current == -* ]]; then
        _unionrt_words "$(_unionrt_options "$command" | cut -d' ' -f1)" "$current"
    elif [[ ! $command ]]; then
        _unionrt_words "$(unionrt --help 2>/dev/null | sed -n '/^COMMANDS:/,/^$/s/^  \([a-z]*\) .*/\1/p')" "$current"
    elif [[ $command == kill && $arguments -eq 1 ]]; then
        mapfile -t COMPREPLY < <(compgen -A signal -- "$current" | grep '^SIG')
    elif [[ $arguments -eq 0 && ! $command =~ ^(create|run|list|spec|features|checkpoint|restore)$ ]]; then
        _unionrt_words "$(unionrt "${root[@]}" list -q 2>/dev/null)" "$current"
    fi
}
complete -F _unionrt unionrt
