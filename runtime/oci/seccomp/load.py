# SPDX-License-Identifier: Apache-2.0
"""Loading a filter into this process, for good."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.channel import Channel

    from runtime.oci.seccomp.filter import Filter


def load(seccomp: "Filter", channel: "Channel") -> None:
    """Install the filter in this process, which has one thread, and send a listener's descriptor over `channel`.

    Needs no_new_privs or CAP_SYS_ADMIN, else EACCES. A listener's descriptor goes as the message "seccomp"; returns when
    the parent has answered "ok", that is when the agent has it.
    """
    raise NotImplementedError
