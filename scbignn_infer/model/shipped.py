"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "d18d22753081c12be6e9319261ae9f4fbbdcc4603eb5328304bc5313ccdcc34d",
        # human-lung-cancer-lines
        "087bee4aef385682fc46015fca8aadf72e442e9f6da5dd91765913022b64d990",
        # human-pancreas
        "8f381f8cae621880adb985c277440e8dd924e05aebeec5019296b8b1c091131d",
        # human-pbmc
        "4febc2f7c0594dedf8c7f8b5f470132478552fdd2488b7a1a3383200c41672b2",
        # mouse-body
        "35bef5eec790578e149fb9c4cf92ff3aab79924e44f1e8983e0d1704888026c3",
        # mouse-pancreas
        "8adc00fba6b0ac8eb847b332f98f97958180bc714bc6784d5329197565952faf",
    }
)
