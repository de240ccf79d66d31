"""Upload a folder to the Hugging Face hub, when the user names where to."""

from __future__ import annotations

from pathlib import Path

from gdpo_sr.types import CheckpointError, OptionError


def check_hub_access(hub_id: str) -> None:
    """Find out, without the network, what would stop an upload.

    Raises:
        OptionError: `hub_id` is not OWNER/NAME, nobody is logged in, or the hub is switched off.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--push_to_hub {hub_id!r}: {reason}; write OWNER/NAME") from error
    if hub_id.count("/") != 1:
        raise OptionError(f"--push_to_hub {hub_id!r}: write OWNER/NAME")
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise OptionError(
            f"--push_to_hub {hub_id}: HF_HUB_OFFLINE is set; unset it, or leave the option out"
        )
    if huggingface_hub.get_token() is None:
        raise OptionError(
            f"--push_to_hub {hub_id}: not logged in; run 'hf auth login' or set HF_TOKEN"
        )


def push_folder(folder: Path, hub_id: str) -> str:
    """Upload `folder`, whose repository is made where it does not exist; returns its address.

    Raises:
        CheckpointError: the hub cannot be reached or refuses.
    """
    import huggingface_hub
    from huggingface_hub import errors

    network_error = getattr(errors, "HTTPError", OSError)  # of the HTTP library that it uses
    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(hub_id, exist_ok=True)
        api.upload_folder(
            repo_id=hub_id, folder_path=folder, commit_message="Upload of gdpo-sr export"
        )
    except (OSError, ValueError, network_error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"'{folder}' is written, but could not be uploaded to {hub_id} ({reason}): check "
            f"connection and rights, then run: hf upload {hub_id} {folder}"
        ) from error
    return str(url)
