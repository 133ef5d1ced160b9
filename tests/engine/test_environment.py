"""What processes that compute inherit, and what they do not."""

from __future__ import annotations

from engine.environment import without_secrets

SECRETS = {
    "MING_API_KEY": "one two",
    "HF_TOKEN": "hf_x",
    "HUGGING_FACE_HUB_TOKEN": "hf_x",
    "OPENAI_API_KEY": "sk-x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_SESSION_TOKEN": "x",
    "POSTGRES_PASSWORD": "x",
    "GOOGLE_APPLICATION_CREDENTIALS": "/x.json",
    "GITHUB_PAT": "x",
    "MYSQL_PWD": "x",
    "SSH_AUTH_SOCK": "/x",
    "lower_case_token": "x",
    "https_proxy": "http://someone:word@proxy.example:3128",
}
NEEDED = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/someone",
    "PWD": "/home/someone",
    "PYTHONPATH": "/x",
    "LD_LIBRARY_PATH": "/x",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NCCL_SOCKET_IFNAME": "eth0",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "LLVM_PASS_PLUGIN_PATH": "/x",
    "TRITON_CACHE_DIR": "/x",
    "OMP_NUM_THREADS": "1",
    "MASTER_ADDR": "10.0.0.1",
    "TORCHELASTIC_RUN_ID": "none",
    "HF_HOME": "/x",
    "HF_HUB_CACHE": "/x",
    "TOKENIZERS_PARALLELISM": "false",
    "XDG_CACHE_HOME": "/x",
    "HTTP_PROXY": "http://proxy.example:3128",
}


def test_secrets_stay_and_what_tunes_goes_on() -> None:
    assert without_secrets(SECRETS | NEEDED) == NEEDED
