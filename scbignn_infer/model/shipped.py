"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "d18d22753081c12be6e9319261ae9f4fbbdcc4603eb5328304bc5313ccdcc34d",
        # human-lung-cancer-lines
        "b2a8e446c8af7cd1d532318cf9a6d173a8b0cc9599fc7c83d9bdb8d673228ef9",
        # human-pancreas
        "c6b77a735025e2beca398c09394899e1a52fda08fd359b6c55060c11fd2c9ffc",
        # human-pbmc
        "e7edeffd07f46b617310fa9cde562a556f88e097415710bbd4598ff9fe527c48",
        # mouse-body
        "f4d159886a5559857c61298ce31cdbabe70bcc3941856bc2080540d11fc90544",
        # mouse-pancreas
        "534ca988b2249e6cb3b3bc7595b86a98d98b8ff1b530f7cf0f7d3706e8b8710f",
    }
)
