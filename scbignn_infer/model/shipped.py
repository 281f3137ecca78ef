"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "66e27a388537b5f7af9cf97e64a5db97c0104ba32cf24d994cbc6cdeddefa74e",
        # human-lung-cancer-lines
        "4647165aebd6905c1eccd74686015db8ba715bcdae09dfaa0bcecec329d6e8ab",
        # human-pancreas
        "054e12665fecc28f85e10bdcdb2c1bbcc5908504aa831946a83edeb222c3616d",
        # human-pbmc
        "3a34e0a67583a160c2a0fcf7bcee8866d33748c95641b144342566ad9ea1cb96",
        # mouse-body
        "e2b5989a31cc3f934e5628fc68ae20b63d2f5a7368a565744838af3e59d587ff",
        # mouse-pancreas
        "43336a4721cb29a554d46e0bd8ef931571abcaae88f5982608256fb5e498e917",
    }
)
