# SPDX-License-Identifier: Apache-2.0
# Bash completion for unionbox.
# Use: source docs/completion/unionbox.bash, or copy it to /usr/share/bash-completion/completions/unionbox

_unionbox() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} index
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "run --help --version" -- "$current")
        return
    fi
    for ((index = 2; index < COMP_CWORD; index++)); do
        if [[ ${COMP_WORDS[index]} == -- ]]; then # from here on it is the container's command line
            mapfile -t COMPREPLY < <(if ((index + 1 == COMP_CWORD)); then compgen -c -- "$current"; else compgen -f -- "$current"; fi)
            return
        fi
    done
    case $previous in
        --rootfs | --rw | --workdir | -w | :) # bash splits DIR:DIR at the colon
            mapfile -t COMPREPLY < <(compgen -d -- "${current#:}")
            compopt -o filenames 2>/dev/null
            ;;
        --network) mapfile -t COMPREPLY < <(compgen -W "none host" -- "$current") ;;
        --memory | -m | --cpus | --pids | --hostname | --env | -e | --user | -u) ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "--rootfs --rw --memory --cpus --pids --hostname --network --userns --env --workdir --user
                --no-new-privileges --interactive --tty --rm --init --help --" -- "$current")
            ;;
    esac
}
complete -F _unionbox unionbox
