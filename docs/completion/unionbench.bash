# SPDX-License-Identifier: Apache-2.0
# Bash completion for unionbench.
# Use: source docs/completion/unionbench.bash, or copy it to /usr/share/bash-completion/completions/unionbench

# Completes the last word of a comma-separated list with the names that `unionbench list --names KIND` knows.
_unionbench_names() {
    local current=$1 kind=$2 head=""
    [[ $current == *,* ]] && head=${current%,*},
    mapfile -t COMPREPLY < <(compgen -P "$head" -W "$(unionbench list --names "$kind" 2>/dev/null)" -- "${current##*,}")
    compopt -o nospace 2>/dev/null
}

_unionbench_files() {
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
    compopt -o filenames 2>/dev/null
}

_unionbench() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "quick run full selftest list report show compare --help" -- "$current")
        return
    fi
    case $previous in
        --suite)
            if [[ ${current##*,} == */* ]]; then _unionbench_names "$current" workloads; else _unionbench_names "$current" suites; fi
            return
            ;;
        --targets) _unionbench_names "$current" targets; return ;;
        --backing) mapfile -t COMPREPLY < <(compgen -W "tmpfs ext4 xfs btrfs" -- "$current"); return ;;
        --names) mapfile -t COMPREPLY < <(compgen -W "suites workloads targets figures" -- "$current"); return ;;
        --directory) mapfile -t COMPREPLY < <(compgen -d -- "$current"); compopt -o filenames 2>/dev/null; return ;;
        -o | --output) _unionbench_files "$current"; return ;;
        --rounds | --slow | --threshold | --minutes) return ;;
    esac
    if [[ $current == -* ]]; then
        local flags="--help" measuring="--targets --rounds --output --directory --backing --pin --slow --minutes"
        case $command in
            quick | full | selftest) flags+=" $measuring" ;;
            run) flags+=" --suite $measuring" ;;
            list) flags+=" --json --names" ;;
            report) flags+=" --output --suite" ;;
            show) flags+=" --json" ;;
            compare) flags+=" --threshold --absolute --json" ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$current")
        return
    fi
    case $command in report | show | compare) _unionbench_files "$current" ;; esac
}
complete -F _unionbench unionbench
