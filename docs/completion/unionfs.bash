# SPDX-License-Identifier: Apache-2.0
# Bash completion for unionfs, unionfs-overlay and mount.unionfs.
# Use: source docs/completion/unionfs.bash, or copy it to /usr/share/bash-completion/completions/unionfs

_unionfs_mounts() {
    # Mount points as the kernel writes them: \040 is a space. No mount is touched.
    local id parent device root target rest
    while read -r id parent device root target rest; do
        case $rest in *" - fuse.unionfs"*) printf '%b\n' "${target//\\0/\\00}" ;; esac
    done </proc/self/mountinfo
}

_unionfs_branches() {
    unionfs branch list "$1" 2>/dev/null | while read -r _ branch; do printf '%s\n' "${branch%=*}"; done
}

_unionfs_options="br: add: append: prepend: del: mod: ro rw create= cpup= udba=none udba=reval udba=notify plink noplink
sum nosum dirwh= diropq=a diropq=w dirperm1 nodirperm1 shwh noshwh warn_perm nowarn_perm verbose quiet acl noacl rdcache=
whiteout=aufs whiteout=overlay coherence=aufs coherence=overlay passthrough nopassthrough stackable fsync nofsync fsname= nosuid nodev noexec noatime allow_other"

_unionfs_words() {
    local IFS=$'\n'
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
    compopt -o filenames 2>/dev/null
}

_unionfs_option() {
    local word=${1##*,} head=""
    [[ $1 == *,* ]] && head=${1%,*},
    mapfile -t COMPREPLY < <(compgen -P "$head" -W "$_unionfs_options" -- "$word")
    compopt -o nospace
}

_unionfs() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "mount umount remount branch status stats which flush mvdown check commit
            --help --version" -- "$current")
        return
    fi
    if [[ $previous == -o && $command =~ ^(mount|remount)$ ]]; then
        _unionfs_option "$current"
        return
    fi
    if [[ $current == -* ]]; then
        local flags="--help"
        case $command in
            mount) flags+=" -o --foreground --session --log-file --debug --clear-dead" ;;
            umount) flags+=" --lazy" ;;
            remount) flags+=" -o" ;;
            status | stats | which) flags+=" --json" ;;
            branch) [[ ${COMP_WORDS[2]} =~ ^(list|busy)$ ]] && flags+=" --json" ;;
            mvdown) flags+=" --overwrite --keep" ;;
            check) flags+=" --repair --json" ;;
            commit) flags+=" --copy" ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$current")
        return
    fi
    case $command in
        umount | remount | status | stats | flush) _unionfs_words "$(_unionfs_mounts)" "$current" ;;
        commit)
            if ((COMP_CWORD == 2)); then
                _unionfs_words "$(_unionfs_mounts)" "$current"
            else
                _unionfs_words "$(_unionfs_branches "${COMP_WORDS[2]}")" "$current"
            fi
            ;;
        branch)
            case $COMP_CWORD in
                2) mapfile -t COMPREPLY < <(compgen -W "list add append prepend del mod busy" -- "$current") ;;
                3) _unionfs_words "$(_unionfs_mounts)" "$current" ;;
                *)
                    if [[ ${COMP_WORDS[2]} =~ ^(del|mod|busy)$ ]]; then
                        _unionfs_words "$(_unionfs_branches "${COMP_WORDS[3]}")" "$current"
                    else
                        mapfile -t COMPREPLY < <(compgen -d -- "$current")
                    fi
                    ;;
            esac
            ;;
        *)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            compopt -o filenames
            ;;
    esac
}
complete -F _unionfs unionfs
